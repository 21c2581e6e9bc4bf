"""What turns studies into pages."""
