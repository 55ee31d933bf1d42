"""Reading audio files: formats, integrity checks, decoding, measurements and speech detection."""
