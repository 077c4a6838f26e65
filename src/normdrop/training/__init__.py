"""Training: what is minimised and measured, one fit of many replicates, and the variance shift of what it leaves."""
