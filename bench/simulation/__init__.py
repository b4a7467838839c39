"""What cannot be measured on one machine: many instances and many users, simulated from what was measured."""
