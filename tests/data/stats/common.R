# What reference.R and figures.R share: they read a table and say what R finds. Needs emmeans.

suppressPackageStartupMessages(library(emmeans))
options(contrasts = c("contr.sum", "contr.poly"))
emm_options(msg.interaction = FALSE, msg.nesting = FALSE)
answers <- data.frame()

say <- function(analysis, item, quantity, value) {
  answers <<- rbind(answers, data.frame(analysis, item, quantity, value))
}

# To NAME.csv in the folder that the command names, else in this one.
write_answers <- function(name) {
  arguments <- commandArgs(trailingOnly = TRUE)
  folder <- if (length(arguments)) arguments[1] else "."
  answers$value <- signif(answers$value, 12)
  write.csv(answers, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = 1:3)
}

table_of <- function(name) {
  data <- read.csv(paste0(name, ".csv"))
  for (column in intersect(c("data", "model", "method", "state", "threshold"), names(data))) {
    data[[column]] <- factor(data[[column]])
  }
  data
}

# --- hyperbola: nls, its covariance, R, and the delta method's band ----------------------------

# With its derivatives and from a start that suits the data, without which flat scores have no fit.
curve <- deriv(~ bmax * shots / (kd + shots), c("bmax", "kd"), function(bmax, kd, shots) NULL)

hyperbola <- function(data) {
  line <- coef(lm(shots / ap ~ shots, data))
  start <- list(bmax = 1 / line[[2]], kd = line[[1]] / line[[2]])
  nls(ap ~ curve(bmax, kd, shots), data, start, control = nls.control(tol = 3e-7))
}

say_hyperbola <- function(analysis, data, fit) {
  estimate <- coef(fit)
  errors <- coef(summary(fit))[, "Std. Error"]
  for (name in c("bmax", "kd")) {
    say(analysis, name, "estimate", estimate[[name]])
    say(analysis, name, "standard_error", errors[[name]])
  }
  say(analysis, "bmax,kd", "covariance", vcov(fit)["bmax", "kd"])
  unexplained <- sum(resid(fit)^2) / sum((data$ap - mean(data$ap))^2)
  say(analysis, "r", "estimate", sqrt(1 - unexplained))
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

# --- models and thresholds, whose random states are matched ------------------------------------

matched <- function(data) aov(ap ~ model * threshold + Error(state / (model * threshold)), data)

say_strata <- function(analysis, fit) {
  for (stratum in summary(fit)[-1]) say_table(analysis, stratum[[1]])
}

# A row a state, a column each model at each threshold, and what the columns are.
wide_of <- function(data) {
  cells <- expand.grid(threshold = levels(data$threshold), model = levels(data$model))
  value <- function(state, model, threshold) {
    data$ap[data$state == state & data$model == model & data$threshold == threshold]
  }
  wide <- t(sapply(levels(data$state), function(state) {
    mapply(value, state, cells$model, cells$threshold)
  }))
  list(fit = lm(wide ~ 1), cells = cells)
}

say_corrected <- function(analysis, wide) {
  spherical <- function(effect, with, without) {
    tested <- anova(wide$fit, M = with, X = without, idata = wide$cells, test = "Spherical")
    say(analysis, effect, "p_corrected", tested[1, "G-G Pr"])
  }
  spherical("model", ~ model, ~ 1)
  spherical("threshold", ~ model + threshold, ~ model)
  spherical("model:threshold", ~ model * threshold, ~ model + threshold)
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
satterthwaite <- c("standard_error", "df", "p", "p_adjusted")

say_matched_pairs <- function(analysis, data) {
  say_pairs(analysis, lm(ap ~ model * threshold + threshold:state, data), "", all_columns)
  say_pairs(analysis, matched(data), "satterthwaite_", satterthwaite)
}
