"""Images on disk, in memory and as pictures; where they come from, and how they are split."""
