"""What is left of a training: weights that timm loads, an ONNX file, a model card."""
