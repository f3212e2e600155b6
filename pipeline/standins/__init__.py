"""Stage 0 of the tiny recipe: small stand-ins for the public checkpoints that the paper starts from.

The paper begins with SenseVoice-large and Qwen2.5-7B-Instruct, which already hear and write. The tiny recipe has to
make such parts first, in plain PyTorch, from the demo's own training data: an encoder in SenseVoice's layout and an LLM
in Qwen2.5's with its chat template. They load through the same code as the real checkpoints.
"""
