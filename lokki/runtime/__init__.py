"""What runs inside AWS Lambda."""
