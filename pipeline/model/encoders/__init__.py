"""Speech encoders: one module for each value of ``model.encoder.type``, see pipeline/model/encoder_interface.py."""
