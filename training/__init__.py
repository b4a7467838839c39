"""The path from data to a served model: tokenizer, pre-training, fine-tuning, evaluation. Never imports the gateway."""
