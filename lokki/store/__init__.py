"""Where results are kept: objects under the prefix of a flow."""
