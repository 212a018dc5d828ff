"""From noise to latents: samplers, guidance, windows. May import presets."""
