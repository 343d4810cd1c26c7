"""What a user takes away: the table, pictures, promotion, reproduction, the UI."""
