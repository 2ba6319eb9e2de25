"""What several rooms need and none owns: work shared by those who ask for it at once."""
