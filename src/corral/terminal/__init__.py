"""Front ends: each turns what a person types into calls of a conversation, and shows that person its events."""
