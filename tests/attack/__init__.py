"""Peers that break the rules, and what becomes of them."""
