"""Measurements for people and machines; nothing here is asserted in a test."""
