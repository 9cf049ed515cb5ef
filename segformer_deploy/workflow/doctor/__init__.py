"""What this machine is (`machine`), and what keeps it from working or from being fast (`rules`)."""
