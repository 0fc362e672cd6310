"""Drains of cells: census, queue, workers, limits, time window and report. Nothing here is presentation."""
