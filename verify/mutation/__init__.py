"""Mistakes made in layers on purpose: is the auditor itself sharp?"""
