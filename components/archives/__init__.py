"""Collections packed in archives: their members, where these lie, and their bytes."""
