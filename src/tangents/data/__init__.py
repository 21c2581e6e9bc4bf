"""Real data: where they come from, how they are verified, and the tasks made of them."""
