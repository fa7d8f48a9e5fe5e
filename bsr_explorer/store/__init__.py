"""What is written: records, study files, the study's folder."""
