"""What leaves the machine: exported classifiers, cards, the gate, and pushes to the Hub."""
