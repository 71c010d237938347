"""Rendering results and progress. No torch here: a report is made from what is stored."""
