# What R says of the figures' tables: Rscript figures.R [folder to write figures.csv to].
# Needs the package emmeans (Debian: r-base-core, r-cran-emmeans). figures.py runs it.

source("common.R")

all <- table_of("fig2")
for (set in levels(all$data)) {
  data <- droplevels(all[all$data == set, ])
  say_strata(paste("fig2", set), matched(data))
  say_corrected(paste("fig2", set), wide_of(data))
  say_matched_pairs(paste("fig2", set), data)
}

# Type III, of which drop1 takes each effect out of the whole model.
say_two_way <- function(analysis, data) {
  fit <- lm(ap ~ method * shots, transform(data, shots = factor(shots)))
  tested <- drop1(fit, . ~ ., test = "F")
  for (effect in rownames(tested)[-1]) {
    say_effect(analysis, effect, tested[effect, "Sum of Sq"], tested[effect, "Df"],
               deviance(fit), df.residual(fit), tested[effect, "F value"], tested[effect, "Pr(>F)"])
  }
}

for (name in c("shot_sets", "fig5")) {
  all <- table_of(name)
  names(all)[names(all) == "map"] <- "ap"
  for (set in levels(all$data)) {
    of_set <- droplevels(all[all$data == set, ])
    for (method in levels(of_set$method)) {
      data <- of_set[of_set$method == method, ]
      fit <- if (nrow(data) > 2) try(hyperbola(data), silent = TRUE)
      if (inherits(fit, "nls")) {  # one number of shots has none, nor scores without a plateau
        say_hyperbola(paste("hyperbola", name, set, method), data, fit)
      }
    }
    for (other in c("Cellpose", "Scellseg")) {
      pair <- of_set[of_set$method %in% c("Scellseg-CFT", other), ]
      both <- tapply(as.character(pair$method), pair$shots, function(m) length(unique(m)) == 2)
      pair <- droplevels(pair[pair$shots %in% names(which(both)), ])
      cells <- unique(pair[c("method", "shots")])
      if (length(unique(pair$shots)) > 1 && nrow(pair) > nrow(cells)) {
        say_two_way(paste("anova", name, set, other), pair)
      }
    }
  }
}

write_answers("figures")
