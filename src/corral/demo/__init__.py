"""`corral demo`: the main job on the real Codex, with a scripted model in the place of an account and a network."""
