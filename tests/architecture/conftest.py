"""The toys of the recipes are no tests of this house."""

collect_ignore = ["toys"]
