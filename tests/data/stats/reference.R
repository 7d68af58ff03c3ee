# What R says of the synthetic tables: Rscript reference.R [folder to write reference.csv to].
# Needs the packages emmeans and car (Debian: r-base-core, r-cran-emmeans, r-cran-car).

source("common.R")
suppressPackageStartupMessages(library(car))

for (method in c("Scellseg-CFT", "Cellpose-FT")) {
  data <- table_of("shots")
  data <- data[data$method == method, ]
  say_hyperbola(paste("hyperbola", method), data, hyperbola(data))
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
  analysis <- paste(name, "matched")
  say_strata(analysis, matched(data))
  wide <- wide_of(data)
  say_epsilon(analysis, wide$fit, wide$cells, ~ model * threshold, within_only = TRUE)
  say_corrected(analysis, wide)
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

for (name in c("two_models", "three_models", "three_models_unequal")) {
  data <- table_of(name)
  data$subject <- interaction(data$model, data$state, drop = TRUE)
  analysis <- paste(name, "unmatched")
  say_pairs(analysis, lm(ap ~ model * threshold, data), "", all_columns)
  if (name == "three_models_unequal") next
  fit <- aov(ap ~ model * threshold + Error(subject), data)
  say_pairs(analysis, fit, "satterthwaite_", satterthwaite)
  say_matched_pairs(paste(name, "matched"), data)
}

write_answers("reference")
