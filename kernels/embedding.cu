// Rows of a table by token, and the gradient of the table.
#include "common.cuh"

// y[row] = table[token[row]]; one block a row.
KERNEL gather_rows(T* y, const T* table, const int* tokens, int d) {
    Index to = (Index)blockIdx.x * d, from = (Index)tokens[blockIdx.x] * d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) store(y + to + i, load(table + from + i));
}

// Each row of the table's gradient sums its own places, in order: places[starts[v]..starts[v + 1]) are the rows of dy
// whose token is v. One block a row of the table.
KERNEL scatter_rows(float* dtable, const T* dy, const int* starts, const int* places, int d) {
    int first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float sum = 0;
        for (int place = first; place < end; ++place) sum += load(dy + (Index)places[place] * d + i);
        dtable[(Index)blockIdx.x * d + i] = sum;
    }
}
