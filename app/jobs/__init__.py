"""What runs in the background: jobs (thin: ids in, a stage called), the worker and the scheduler."""
