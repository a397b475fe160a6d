"""Instruction tuning: tasks, prompts, answers, tuning, and how a tuned model's performance follows that of its base."""
