"""What the report's tests share."""
