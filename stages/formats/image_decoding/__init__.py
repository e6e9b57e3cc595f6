"""The one decoder of image bytes: recognise, check against limits by the header, decode, and bring into one form."""
