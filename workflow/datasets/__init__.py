"""The data sets: fetching each as it comes, and turning it into the three splits that every family sees."""
