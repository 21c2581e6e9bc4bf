"""Studies and their evidence: what is declared, run, stored, judged. Knows no physics."""
