"""What a user takes away from a study: the table, pictures, promotion, reproduction, the UI."""
