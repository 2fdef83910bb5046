"""Read the images of one series: windows, places, contrasts and numbers, judged for the series as a whole."""
