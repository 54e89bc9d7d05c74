"""Data that trains and tests the networks: digits, spoken and written, made from one small embedded asset."""
