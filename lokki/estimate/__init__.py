"""What a run on AWS costs and how long it takes, before it is deployed."""
