"""What routes decided: explanations of single decisions, statistics of arms."""
