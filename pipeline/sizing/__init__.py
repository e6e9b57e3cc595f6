"""What a plan will take: how many weights are trained, how much memory they need, how often each image is seen."""
