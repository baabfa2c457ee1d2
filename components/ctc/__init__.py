"""CTC: the loss, the decoders, and calibration of their confidences."""
