"""Private helpers without any knowledge of CvT."""
