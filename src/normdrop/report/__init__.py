"""The report: records on disk → statistics → verdicts → figures → page. Imports nothing that trains."""
