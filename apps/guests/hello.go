package main

import "fmt"

// Goroutines share out numbers and send back what they add up to.
func main() {
	const workers = 8
	sums := make(chan int)
	for w := 0; w < workers; w++ {
		go func(w int) {
			sum := 0
			for i := w; i < 1000; i += workers {
				sum += i
			}
			sums <- sum
		}(w)
	}
	total := 0
	for w := 0; w < workers; w++ {
		total += <-sums
	}
	fmt.Printf("sum %d of %d goroutines\n", total, workers)
}
