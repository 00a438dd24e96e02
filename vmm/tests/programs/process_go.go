// Goroutines on many threads, signals, a server and its client.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func main() {
	var workers sync.WaitGroup
	results := make(chan int, 10)
	total := make(chan int)
	go func() {
		sum := 0
		for result := range results {
			sum += result
		}
		total <- sum
	}()
	for i := 0; i < 100; i++ {
		workers.Add(1)
		go func(i int) {
			defer workers.Done()
			kept := make([]byte, 100000)
			kept[i] = 1
			time.Sleep(time.Millisecond)
			results <- i + len(kept)
		}(i)
	}
	workers.Wait()
	close(results)
	fmt.Println(<-total)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	check(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	fmt.Println(<-signals)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		connection, err := listener.Accept()
		check(err)
		io.Copy(connection, connection)
		connection.Close()
	}()
	client, err := net.Dial("tcp", listener.Addr().String())
	check(err)
	client.Write([]byte("there and back"))
	answer := make([]byte, 14)
	_, err = io.ReadFull(client, answer)
	check(err)
	fmt.Println(string(answer))
}
