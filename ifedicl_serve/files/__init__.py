"""Files of somebody else's read with care, files of ours written whole or not at all."""
