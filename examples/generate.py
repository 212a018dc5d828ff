"""Sound for a video: python examples/generate.py clip.mp4 "a ball bounces on wood"."""

import sys

import foley

video, prompt = sys.argv[1:3]
sound = foley.load("toy").generate(video, prompt, seed=1)
print(f"{sound.seconds:.2f} s at {sound.sample_rate} Hz by {sound.provenance['preset']}")
sound.save("out.mp4")
