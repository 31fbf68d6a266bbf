"""MIMAFace, live: appearance + motion + ICA state in, avatar frames + next ICA state out."""
