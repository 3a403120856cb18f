"""From an encoder to a classifier: fine-tuning, few labels, distillation."""
