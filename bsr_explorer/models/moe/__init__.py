"""Vision transformers some of whose blocks have a mixture of experts in place of their MLP."""
