# What R says of the tables in this folder: Rscript reference.R [folder to write reference.csv to].
# Needs the packages emmeans and car (Debian: r-base-core, r-cran-emmeans, r-cran-car).

suppressPackageStartupMessages({
  library(emmeans)
  library(car)
})
options(contrasts = c("contr.sum", "contr.poly"))
emm_options(msg.interaction = FALSE, msg.nesting = FALSE)
arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else "."
answers <- data.frame()

say <- function(analysis, item, quantity, value) {
  answers <<- rbind(answers, data.frame(analysis, item, quantity, value))
}

table_of <- function(name) {
  data <- read.csv(paste0(name, ".csv"))
  for (column in intersect(c("model", "method", "state", "threshold"), names(data))) {
    data[[column]] <- factor(data[[column]])
  }
  data
}

# --- hyperbola: nls, its covariance, R, and the delta method's band ----------------------------

for (method in c("Scellseg-CFT", "Cellpose-FT")) {
  data <- table_of("shots")
  data <- data[data$method == method, ]
  fit <- nls(ap ~ bmax * shots / (kd + shots), data, list(bmax = 1, kd = 1),
             control = nls.control(tol = 1e-7))
  analysis <- paste("hyperbola", method)
  estimate <- coef(fit)
  errors <- coef(summary(fit))[, "Std. Error"]
  for (name in c("bmax", "kd")) {
    say(analysis, name, "estimate", estimate[[name]])
    say(analysis, name, "standard_error", errors[[name]])
  }
  say(analysis, "bmax,kd", "covariance", vcov(fit)["bmax", "kd"])
  unexplained <- sum(resid(fit)^2) / sum((data$ap - mean(data$ap))^2)
  say(analysis, "r", "estimate", sqrt(1 - unexplained))
  curve <- deriv(~ bmax * shots / (kd + shots), c("bmax", "kd"), function(bmax, kd, shots) NULL)
  for (shots in c(0.5, 1, 5, 20)) {
    height <- curve(estimate[["bmax"]], estimate[["kd"]], shots)
    slope <- attr(height, "gradient")
    margin <- qt(0.975, df.residual(fit)) * sqrt(drop(slope %*% vcov(fit) %*% t(slope)))
    say(analysis, shots, "lower", height - margin)
    say(analysis, shots, "upper", height + margin)
  }
}

# --- analyses of variance ----------------------------------------------------------------------

say_effect <- function(analysis, effect, ss, df, error_ss, error_df, f, p) {
  values <- c(sum_of_squares = ss, df = df, error_sum_of_squares = error_ss, error_df = error_df,
              F = f, p = p)
  for (name in names(values)) say(analysis, effect, name, values[[name]])
}

say_table <- function(analysis, table, ss = "Sum Sq", p = "Pr(>F)") {
  rownames(table) <- trimws(rownames(table))
  error <- table["Residuals", ]
  for (effect in setdiff(rownames(table), c("Residuals", "(Intercept)"))) {
    say_effect(analysis, effect, table[effect, ss], table[effect, "Df"], error[[ss]],
               error[["Df"]], table[effect, "F value"], table[effect, p])
  }
}

data <- table_of("shots")
data$shots <- factor(data$shots)
say_table("shots", summary(aov(ap ~ method * shots, data))[[1]])  # sequential: they are balanced
data <- table_of("shots_unequal")
data$shots <- factor(data$shots)
say_table("shots_unequal", as.data.frame(Anova(lm(ap ~ method * shots, data), type = 3)))

# car knows no epsilon of an effect with more contrasts than subjects; base R does, in its p.
say_epsilon <- function(analysis, wide, idata, idesign, within_only = FALSE) {
  found <- suppressWarnings(summary(Anova(wide, idata = idata, idesign = idesign, type = 3), multivariate = FALSE))
  adjusted <- found$pval.adjustments
  for (effect in rownames(adjusted)) {
    say(analysis, effect, "epsilon", adjusted[effect, "GG eps"])
    if (!within_only) say(analysis, effect, "p_corrected", adjusted[effect, "Pr(>F[GG])"])
  }
  found$univariate.tests
}

for (name in c("two_models", "three_models")) {
  data <- table_of(name)
  thresholds <- levels(data$threshold)

  analysis <- paste(name, "matched")
  fit <- aov(ap ~ model * threshold + Error(state / (model * threshold)), data)
  for (stratum in summary(fit)[-1]) say_table(analysis, stratum[[1]])
  cells <- expand.grid(threshold = thresholds, model = levels(data$model))
  value <- function(state, model, threshold) {
    data$ap[data$state == state & data$model == model & data$threshold == threshold]
  }
  wide <- t(sapply(levels(data$state), function(state) {
    mapply(value, state, cells$model, cells$threshold)
  }))
  wide_fit <- lm(wide ~ 1)
  say_epsilon(analysis, wide_fit, cells, ~ model * threshold, within_only = TRUE)
  spherical <- function(effect, with, without) {
    tested <- anova(wide_fit, M = with, X = without, idata = cells, test = "Spherical")
    say(analysis, effect, "p_corrected", tested[1, "G-G Pr"])
  }
  spherical("model", ~ model, ~ 1)
  spherical("threshold", ~ model + threshold, ~ model)
  spherical("model:threshold", ~ model * threshold, ~ model + threshold)
}

for (name in c("two_models", "three_models", "three_models_unequal")) {
  data <- table_of(name)
  data$subject <- interaction(data$model, data$state, drop = TRUE)
  thresholds <- levels(data$threshold)

  analysis <- paste(name, "unmatched")
  wide <- reshape(data[c("subject", "model", "threshold", "ap")], direction = "wide",
                  idvar = c("subject", "model"), timevar = "threshold")
  wide_fit <- lm(as.matrix(wide[paste0("ap.", thresholds)]) ~ model, wide)
  univariate <- say_epsilon(analysis, wide_fit, data.frame(threshold = factor(thresholds)),
                            ~ threshold)
  if (name == "three_models_unequal") {  # type III, which aov does not know
    for (effect in rownames(univariate)[-1]) {
      row <- univariate[effect, ]
      say_effect(analysis, effect, row[["Sum Sq"]], row[["num Df"]], row[["Error SS"]],
                 row[["den Df"]], row[["F value"]], row[["Pr(>F)"]])
    }
  } else {
    fit <- aov(ap ~ model * threshold + Error(subject), data)
    for (stratum in summary(fit)) say_table(analysis, stratum[[1]])
  }
}

# --- Sidak's comparisons -----------------------------------------------------------------------
# The pooled mean square and its df are the residual's of a linear model: of the cells where states
# are not matched; with an effect of each state at each threshold where they are. The strata of aov
# give the same standard errors, with Satterthwaite's df.

say_pairs <- function(analysis, fit, prefix, quantities) {
  means <- suppressWarnings(suppressMessages(emmeans(fit, ~ model | threshold)))
  pairs <- summary(pairs(means), by = NULL, adjust = "none")
  adjusted <- summary(pairs(means), by = NULL, adjust = "sidak")
  columns <- list(difference = pairs$estimate, standard_error = pairs$SE, t = pairs$t.ratio,
                  df = pairs$df, p = pairs$p.value, p_adjusted = adjusted$p.value)
  items <- paste(pairs$threshold, gsub("[()]", "", pairs$contrast))
  for (quantity in quantities) {
    say(paste("sidak", analysis), items, paste0(prefix, quantity), columns[[quantity]])
  }
}

all_columns <- c("difference", "standard_error", "t", "df", "p", "p_adjusted")
for (name in c("two_models", "three_models", "three_models_unequal")) {
  data <- table_of(name)
  data$subject <- interaction(data$model, data$state, drop = TRUE)
  analysis <- paste(name, "unmatched")
  say_pairs(analysis, lm(ap ~ model * threshold, data), "", all_columns)
  if (name == "three_models_unequal") next
  own <- c("standard_error", "df", "p", "p_adjusted")
  say_pairs(analysis, aov(ap ~ model * threshold + Error(subject), data), "satterthwaite_", own)
  analysis <- paste(name, "matched")
  say_pairs(analysis, lm(ap ~ model * threshold + threshold:state, data), "", all_columns)
  fit <- aov(ap ~ model * threshold + Error(state / (model * threshold)), data)
  say_pairs(analysis, fit, "satterthwaite_", own)
}

answers$value <- signif(answers$value, 12)
write.csv(answers, file.path(folder, "reference.csv"), row.names = FALSE, quote = 1:3)
