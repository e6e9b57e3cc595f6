"""From trained models to images: loading, text to image, requests, generation, sampling settings, timing."""
