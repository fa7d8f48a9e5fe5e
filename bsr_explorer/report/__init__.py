"""Reports: tables, figures and pages from records. No torch, no Optuna, and nothing computed anew."""
